"""``plgolf fit`` and ``plgolf validate`` on LightningCLI."""
