#!/usr/bin/env bash
# The passwords of MLflow and its database, made here and now, kept in the cluster and nowhere else. Ray's token is
# KubeRay's own doing. Run again it changes nothing.
set -euo pipefail
kubectl get namespace cslm >/dev/null 2>&1 || kubectl create namespace cslm
if kubectl --namespace cslm get secret cslm-mlflow >/dev/null 2>&1; then
    echo "cslm-mlflow is there"
    exit 0
fi
random() { head -c 24 /dev/urandom | base64 | tr -d '+/='; }
database_password=$(random)
database_uri="postgresql://mlflow:$database_password@postgres:5432/mlflow"
# From standard input: what stands on a command line can be read by every process of the machine.
kubectl --namespace cslm create --filename - <<SECRET
apiVersion: v1
kind: Secret
metadata:
  name: cslm-mlflow
stringData:
  database_password: "$database_password"
  database_uri: "$database_uri"
  cookies: "$(random)"
  password: "$(random)"
  auth.ini: |
    [mlflow]
    default_permission = NO_PERMISSIONS
    database_uri = $database_uri
    admin_username = admin
SECRET
