#!/bin/sh
# Trains what the registry lacks and publishes it. Where everything is there, it does nothing.
set -eu

registry=$CHURN_SAVER_REGISTRY__URL
made=$CHURN_SAVER_STATE_DIR
schema=/data/schema.yaml
customers=/data/customers.csv # yours; /dev/null without DATA
writer=trainers/rlhf/bundled/writer # the project ships it; the image's working directory holds it

sum() { sha256sum <"$1"; }
refuse() {
    echo "$@" >&2
    exit 2
}
simulate() { [ -e "$made/simulated/contacts.csv" ] || churn-saver data simulate --out "$made/simulated"; }

# Which customers there is something to learn from: DATA that is new; without DATA, simulated ones the first time.
new=yes
if [ -d "$customers" ]; then
    refuse "DATA: is a folder; name the CSV file in it"
elif [ -c "$customers" ] && [ -e "$made/customers" ]; then
    echo "without DATA, the models of before go on serving"
    new=
elif [ -c "$customers" ]; then
    simulate
    customers=$made/simulated/customers.csv
elif [ ! -s "$customers" ]; then
    refuse "DATA: is empty; name a CSV file with a header and customers, or leave DATA out to simulate some"
elif [ -e "$made/schema" ] && [ "$(sum "$schema")" != "$(cat "$made/schema")" ]; then
    # The schema that models are trained for: services take no other features while they run.
    refuse "SCHEMA: another one than this registry's models were trained for; take another project" \
        "(docker compose -p NAME up), or forget this one first (docker compose down --volumes)"
elif [ -e "$made/customers" ] && [ "$(sum "$customers")" = "$(cat "$made/customers")" ]; then
    new=
fi

# What is wrong with them is said before anything is made.
if [ "$new" ]; then
    churn-saver data prepare --csv "$customers" --schema "$schema" --out /tmp/prepared >/dev/null
    rm -r /tmp/prepared
fi

# The private key stays with the trainer; services are given the public one.
[ -e "$CHURN_SAVER_REGISTRY__SIGNING_KEY" ] || churn-saver keys --out "${CHURN_SAVER_REGISTRY__SIGNING_KEY%/*}"
[ -e "$CHURN_SAVER_REGISTRY__TRUSTED_KEYS" ] \
    || cp "${CHURN_SAVER_REGISTRY__SIGNING_KEY%/*}/trusted.pem" "$CHURN_SAVER_REGISTRY__TRUSTED_KEYS"

if [ ! -e "$registry/kinds/acceptance.json" ]; then
    simulate
    churn-saver train accept --data "$made/simulated/contacts.csv" --schema "$CHURN_SAVER_CONFIGS/schemas/contacts.yaml" \
        --out "$made/acceptance" --publish
fi

if [ "$new" ]; then
    churn-saver train risk --data "$customers" --schema "$schema" --out "$made/risk" --publish
    churn-saver train ppo --quick --data "$customers" --schema "$schema" --out "$made/policy" --publish
    sum "$schema" >"$made/schema"
    sum "$customers" >"$made/customers"
fi

if [ ! -e "$registry/kinds/generator.json" ] || [ ! -e "$registry/kinds/reward.json" ]; then
    mkdir -p "$CHURN_SAVER_MODELS"
    ln -sfn /opt/models "$CHURN_SAVER_MODELS/wheels" # the image brings the models' wheels
    churn-saver model prepare --publish
elif [ ! -e "$registry/kinds/writer.json" ] && [ -e "$writer" ]; then
    # A registry from before vLLM: what serves there may be somebody's own, so only what it lacks is published.
    churn-saver publish "$writer"
fi
