/** The client's address in a local start. For a deployed Worker, the platform sets `cf-connecting-ip`. */

interface Client {
  address: string;
  /** Scheme between the client and the proxy; null if no trusted proxy reports it. */
  scheme: "http" | "https" | null;
}

/**
 * `cf.clientIp`: address and port that connected to this server. A trusted proxy appends its client's address to `x-forwarded-for`.
 * Security: the client may have forged the earlier entries.
 */
export function clientOf(cf: object | undefined, headers: Headers, isProxyTrusted: boolean): Client {
  const { clientIp } = (cf ?? {}) as { clientIp?: unknown };
  const connected = addressIn(String(clientIp)) ?? "127.0.0.1";
  if (!isProxyTrusted) return { address: connected, scheme: null };
  const last = (name: string) => headers.get(name)?.split(",").at(-1)?.trim() ?? "";
  const scheme = last("x-forwarded-proto").toLowerCase();
  return {
    address: addressIn(last("x-forwarded-for")) ?? connected,
    scheme: scheme === "http" || scheme === "https" ? scheme : null,
  };
}

/** The address in `1.2.3.4`, `1.2.3.4:5`, `::ffff:1.2.3.4`, `a::b` or `[a::b]:5`; null for any other text. */
function addressIn(text: string): string | null {
  const [, v4] = /^\[?(?:::ffff:)?(\d{1,3}(?:\.\d{1,3}){3})\]?(?::\d+)?$/i.exec(text) ?? [];
  if (v4) return v4;
  const [, bracketed, bare] = /^(?:\[([a-f\d:]{2,39})\](?::\d+)?|([a-f\d]*:[a-f\d:]+))$/i.exec(text) ?? [];
  return (bracketed ?? bare)?.toLowerCase() ?? null;
}
