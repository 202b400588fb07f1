"""What an operator runs or hatoba schedules: keeping Docker's link files true, following them, purging uploads."""
