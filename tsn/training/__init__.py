"""Training: the options, the trainer, adapters, and a head for the sentiment of topics."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of what is not used as soon as it is imported
