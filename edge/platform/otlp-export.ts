/** Sends spans and metrics to an OpenTelemetry collector. */
import type { OtlpTarget } from "../../shared/observability/otlp.ts";

export const service = "chameleon-edge";
const timeoutMs = 5000;

/** Failures are logged, and the report is dropped. Never rejects. */
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
