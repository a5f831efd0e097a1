#!/usr/bin/env bash
# MLflow on the head, behind the password that fetch_token.py left; artifacts beside the results. Runs lie on the head's
# disk, and go with it: with MLFLOW_BACKEND_STORE_URI=postgresql://... they are kept elsewhere.
set -euo pipefail
umask 077
MLFLOW_AUTH_ADMIN_PASSWORD=$(sed -n 's/^mlflow_tracking_password = //p' ~/.mlflow/credentials)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(head -c 32 /dev/urandom | base64)
MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI:-sqlite:///$HOME/mlflow.db}
MLFLOW_AUTH_CONFIG_PATH=~/.mlflow/auth.ini
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $MLFLOW_BACKEND_STORE_URI
admin_username = admin
INI
# Nodes come by the head's private address, which MLflow lets in by itself as it does no other name.
exec mlflow server --app-name=basic-auth --host="${MLFLOW_HOST:-0.0.0.0}" --port="${MLFLOW_PORT:-5000}" --workers=2 \
    --artifacts-destination="$(cat ~/.cslm_home)/mlflow"
