"""What hatoba counts of itself: the metrics and their words (`catalogue`), and where workers count them (`cells`)."""
