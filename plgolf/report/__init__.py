"""What a run did, as a page and pictures; several runs, compared. Needs no torch and no Lightning."""
