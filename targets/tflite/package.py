def write_vendor_files(directory, emitted, **kw):
    return (), ()
