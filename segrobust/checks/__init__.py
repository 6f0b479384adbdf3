"""Trust checks: can the numbers of a run be believed? ``run_checks(Context(executor, summary))`` of ``runner.py``.

A check is one function and one line. ``model.py`` and ``gradient.py`` are about the model, ``attack.py``
and ``strength.py`` about the attacks, ``integrity.py``, ``clean.py`` and ``results.py`` about rows and
scores. Below them: ``verdicts.py`` (levels, what a check is), ``context.py`` (the run as checks see it), ``probe.py``
and ``again.py`` (what is measured for several checks); ``basis.py`` says what verdicts are about, for their readers.
"""
