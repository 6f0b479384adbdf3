"""Trust checks: can the numbers of a run be believed? ``run_checks(Context(evaluation, summary))``.

One file per theme: ``contract`` (of the model), ``gradient``, ``attacked``, ``sanity``, ``steps``, ``blind`` and
``strength`` (of the attacks), ``integrity``, ``plausible`` and ``results`` (of rows and scores), ``provenance``. A
check is one function and one line. ``basis`` says what verdicts are about, for whoever reads them.
"""
