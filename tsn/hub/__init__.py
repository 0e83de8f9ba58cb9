"""The Hub: which files a folder and a release hold, the model card, the upload and its verification."""
