"""How the embedded model was made: pictures, captions, training, export, evaluation."""
