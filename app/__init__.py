"""The app: look at a bundle in the browser. `gcl app`, or python -m app.app BUNDLE."""
