def run(*a):
    return True, True
