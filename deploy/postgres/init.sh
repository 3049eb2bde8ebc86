#!/bin/bash
# Run once, when the server's data folder is empty: a role and a database for each service, closed to all others.
set -euo pipefail

service() { # database, role, password
  psql --quiet --set ON_ERROR_STOP=1 --set database="$1" --set role="$2" --set password="$3" <<'SQL'
create role :"role" login password :'password';
create database :"database" owner :"role";
revoke all on database :"database" from public;
SQL
}

service orders order_service "${ORDER_DB_PASSWORD:?}"
service payments payment_service "${PAYMENT_DB_PASSWORD:?}"
service inventory inventory_service "${INVENTORY_DB_PASSWORD:?}"
service notifications notification_service "${NOTIFICATION_DB_PASSWORD:?}"
psql --quiet --set ON_ERROR_STOP=1 --command 'revoke connect on database postgres, template1 from public'
