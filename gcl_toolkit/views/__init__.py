"""Views: report, figures, maps and the bundle that the app reads."""
