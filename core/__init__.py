"""What every part of Limner shares: types, errors, settings, picture files. No torch, nothing of ours."""
