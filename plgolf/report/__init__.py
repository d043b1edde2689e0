"""Reports: a run as a page with pictures, or several runs compared; imports no torch and no Lightning."""
