"""What a person runs and looks at: recipes, trainings, reports, audits."""
