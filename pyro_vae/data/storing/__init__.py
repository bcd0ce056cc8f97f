"""One pass over data that come piece by piece, into a folder of arrays that are memory-mapped when they are read.

Its files:

    stores.py     store_data, storage_plan; and folders for the time being
    plan.py       StoragePlan: the files, their sizes, and the space there is
    passing.py    a pass that has begun: written, or compared with what is stored
    folders.py    a folder that is written whole or not at all, and its manifest
    arrays.py     an `.npy` that is written part by part
"""
