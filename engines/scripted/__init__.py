"""An engine that plays a script: the fake for tests, part of the product."""
