"""Files and Hub datasets become Arrow tables and back, nothing altered."""
