"""A page in the browser that shows a trained model: the true posterior beside the guide.

Its files:

    subject.py     what is shown: a model, data, one datum
    plain.py       results as plain data, as the page gets them
    values.py      x and E[x|z]: as an image, the row of a table, or a vector
    frames.py      coordinates of the plane: two of the code's, or principal axes
    plane.py       codes of the data, and contours of the prior
    grid.py        the true posterior on a grid, for codes of two dimensions
    weighed.py     draws of a guide with their weights: ELBO, log p(x), gap
    datum.py       one datum: guide, posterior, numbers, what is missing of it
    codes.py       discrete codes
    request.py     what the page asks for, checked
    answers.py     what it is answered
    server.py      the server on this machine
    page.py        the page as one text; its parts are in page/
    export.py      the page as one file that needs no server
    layers.py      networks layer by layer, as its script runs them
    halved.py      their weights in 16 bits, and what that changes
"""
