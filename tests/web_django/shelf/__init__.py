"""The one app of the test projects."""
