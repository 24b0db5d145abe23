"""Gender swap: a portrait painted anew as a woman, a man, a girl or a boy. No torch, no ray, no HTTP."""
