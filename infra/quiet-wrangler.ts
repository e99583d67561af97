/**
 * wrangler's environment here: no metrics, no request data fetched from Cloudflare, no banner, no log files, and no local
 * explorer, which reads and writes KV, R2 and SQL storage for anybody at `/cdn-cgi/explorer`.
 */
export const quietWrangler = {
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_HIDE_BANNER: "true",
  WRANGLER_WRITE_LOGS: "false",
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  X_LOCAL_OBSERVABILITY: "false",
  X_LOCAL_EXPLORER: "false",
};
