/** Sends spans and metrics to a collector. Undeliverable ones are dropped. */
import { type OtlpTarget, type Span, tracesBody } from "../../shared/observability/otlp.ts";

export const service = "chameleon-edge";
const timeoutMs = 5000;

export async function exportSpans(target: OtlpTarget, spans: readonly Span[]): Promise<void> {
  await post(target, "/v1/traces", tracesBody(service, spans));
}

/** Never rejects. */
export async function post({ endpoint, headers }: OtlpTarget, path: string, body: string): Promise<void> {
  try {
    const response = await fetch(endpoint + path, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body,
      signal: AbortSignal.timeout(timeoutMs),
    });
    await response.body?.cancel();
    if (!response.ok) throw new Error(`answered ${response.status}`);
  } catch (cause) {
    console.warn(JSON.stringify({ level: "warn", event: "export_failed", path, cause: String(cause) }));
  }
}
