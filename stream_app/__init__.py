"""Real-time recommendations, behaviour predictions and churn alerts beside your Kafka.

The house, its rooms in the order that an event passes through them::

    event.py            the records on Kafka: Event, Item, Recommendation, ChurnAlert, ...
    sources/            where events come from
      completejourney.py  the real shop of the demo
      jsonl.py            events in our own schema, a line each
      mapping.py          other shops' rows, made events as a TOML file says (mappings/ has ready
                          ones): mapping_spec.py checks the file, mapping_fields.py finds fields,
                          mapping_values.py and mapping_times.py make them ours, and
                          mapping_records.py records for Kafka, misfits too; mapping_guess.py
                          proposes one for a file, mapping_columns.py looks at its columns
      rows.py             the rows of CSV, JSON lines and parquet   topic_rows.py   of a topic
      synthetic.py        a seeded shop whose truth is known: synthetic_shop.py sets it up,
                          synthetic_truth.py knows what is probable, synthetic_catalog.py stocks it,
                          synthetic_visit.py plays its users, synthetic_faults.py breaks records
      produce.py          sends them to Kafka
    stages/             what happens to an event: a batch in and a batch out
      decode.py           1 bytes -> an event or a reject with a reason
      admit.py            2 drops repeats; owns consent and erasure
      timers.py           3 puts what falls due between two events between them
      features.py         4 history, session, activity and spending of a user
      behavior.py         5 what a user is about to do: purchase, comment, share; learns from it
      churn.py            6 how likely a user is to stay away, and when to say so
      candidates.py       7 whether to recommend, and a bounded pool of candidates
      score.py            8 scores of the candidates
      rerank.py           9 rules only: what may be shown, caps, exploration
      emit.py            10 records with ids, causes and CloudEvents headers
    steps.py            what passes between the stages
    tables.py           the bounded tables that candidates come from
    shelves.py          the live catalogue by category and price: what is alike, what is new
    learners.py         River's online learners, as rows
    schedule.py         the timers in the rows, and one heap over them
    judge.py            how right the predictions were that have come due
    manifest.py         the folder of a ranking model, read and checked
    registry.py         models that were published, and which of them serves
    ranker.py           the neural ranking model: tried out, warmed up, scores candidates
    pipeline.py         process(state, batch, context): the stages in order
    state.py            the rows of one partition
    runtime/            how a partition lives on Kafka
      transport.py        a Faust transport that delivers lists of records
      changelog.py        rows from the changelog: restore
      sink.py             one transaction for each batch and partition
      topics.py           making and checking the topics
      task.py             the owner of one partition
      observe.py          committed batches, into the metrics
      worker.py           the partitions of one process
      catalog.py          the live catalogue
      model.py            the ranking model: loaded, swapped, or refused with a reason
      shadow.py           a model that is compared and answers nothing
      app.py              the Faust app around them
    ops/                what people use and see
      health.py           /metrics, /healthz, /readyz
      watch.py            topics, on a terminal
      user.py             what is known of a user
      words.py            predictions and alerts in words
      produce.py          events to Kafka, with a progress bar
      mapping.py          the same of other shops' rows   catalog.py   their items
      schema.py           JSON Schemas of the records and headers; schema_asyncapi.py, the topics
                          as one AsyncAPI document; schema_examples.py, examples of each record
      dead_letters.py     reads what was rejected; dead_letters_replay.py puts it back,
                          dead_letters_view.py shows it
      broker.py           the demo's embedded broker
      demo.py             a shop's year, live: demo_child.py and demo_worker.py run it,
                          demo_shops.py and demo_feed.py feed it, demo_own.py with a file of your
                          own, demo_ranking.py says what ranks,
                          demo_story.py, demo_view.py, demo_learned.py and demo_result.py show it
      report.py           one page with pictures of a run: report_read.py reads the topics,
                          report_events.py, report_hits.py, report_foresight.py and
                          report_series.py make figures, report_metrics.py asks the workers,
                          report_pictures.py draws, report_shop.py, report_learned.py,
                          report_ran.py and report_blocks.py say it, report_page.py lays it out
    metrics.py          every Prometheus collector
    config.py           settings         errors.py   what can go wrong, who acts
    clock.py            the only clock   hashing.py  hashes that never change
    codec.py            how state becomes bytes
    cli/                the command line, a module a command; __main__.py runs it
      worker.py           processes events   topics.py   makes and checks the topics
      produce.py          sends events       look.py     watch and user
      mapping.py          lists, guesses, checks mappings   catalog.py   sends items
      schema.py           the documents      dead_letters.py   lists and replays
      report.py           the page           demo.py     the demo
      common.py           what they share
"""
