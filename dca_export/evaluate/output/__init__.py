"""What is shown of an experiment: pictures, sentences, one page."""
