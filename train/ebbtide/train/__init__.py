"""From event logs to an interest bundle.

Where to find what, in the order in which data passes through:

- ``stage``: the whole train stage; ``trainer``: the fits of one training; ``loop``: one fit; ``step``: one batch.
- ``config``: settings, of ``choices``. ``encoder``, ``fine_tuning``: the language model that embeds texts.
- ``windows``: training windows and interest before every event, by ``recurrence``; ``popularity``: the prior over time;
  ``seen_items``: each basket's past.
- ``model``: the interest model, of feature ``blocks``, with the ``repeat`` score; ``reference``: its formulas for one
  request, in double precision.
- ``losses``, ``negatives``, ``optimizer``; ``lowrank``: the warm start; ``devices``: GPUs and processes.
- ``watcher``, ``progress``, ``board``: progress reports; ``checkpoint``: what a killed training resumes from.
- ``bundle``: the result on disk; ``refresh``: its popularity prior counted again; ``evaluation``: how well it ranks.
"""
