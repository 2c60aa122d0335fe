"""The app: explore a bundle in the browser. `gcl app`, or python -m gcl_toolkit.app.app BUNDLE."""
