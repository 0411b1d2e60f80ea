# The code of the students: a dependency of theirs alone.
