#!/bin/sh
# certbot calls this after each certificate that it got (--deploy-hook): NGINX goes on with the new one. Requests that
# are under way end with the old one.
set -e
cd "$(dirname "$0")"
umask 077
cp "$RENEWED_LINEAGE/fullchain.pem" "$RENEWED_LINEAGE/privkey.pem" nginx/certs/
docker compose exec -T nginx nginx -s reload
