/** The one place that reads an API key from an Authorization header. */

/**
 * The key of `Bearer <key>`; null where the header is absent or has another form. The scheme's case and the number of
 * spaces do not matter, so callers must compare keys, never headers.
 */
export function bearerKeyOf(headers: Headers): string | null {
  return /^Bearer +(\S+)$/i.exec(headers.get("authorization") ?? "")?.[1] ?? null;
}
