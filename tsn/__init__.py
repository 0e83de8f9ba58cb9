"""What trains, measures, quantizes, scores and releases TSN. The files that travel to the Hub lie at the root."""
