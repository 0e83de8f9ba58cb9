"""Training: the options, the model and data they ask for, the trainer, adapters, and what a run leaves behind."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of what is not used as soon as it is imported
