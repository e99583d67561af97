/**
 * A backend in a Cloudflare Container, started by the first call. Until the container runs, this Durable Object answers 503.
 * https://developers.cloudflare.com/containers/api/durable-object-container/
 */
import { DurableObject } from "cloudflare:workers";

const port = 8788;
const idleMs = 10 * 60_000;

export type BackendProcess = Pick<Container, "running" | "start" | "monitor" | "setInactivityTimeout" | "getTcpPort">;

const forwardedSettings = ["BACKEND_SECRETS", "ARTIFACTS_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

export class BackendContainer extends DurableObject {
  override async fetch(request: Request): Promise<Response> {
    const { container } = this.ctx;
    if (!container) throw new Error("the class BackendContainer has no entry in [[containers]] of wrangler.toml");
    return callContainer(container, request, settingsOf(this.env), (work) => this.ctx.waitUntil(work));
  }
}

export async function callContainer(
  container: BackendProcess,
  request: Request,
  settings: Record<string, string>,
  background: (work: Promise<void>) => void,
): Promise<Response> {
  if (!container.running) {
    // The backend needs the internet only to load published artifacts.
    container.start({ env: settings, enableInternet: "ARTIFACTS_URL" in settings });
    background(monitored(container));
  }
  try {
    return await container.getTcpPort(port).fetch(request);
  } catch (cause) {
    const message = `The container is starting or has stopped: ${cause}`;
    const init = { status: 503, headers: { "retry-after": "2" } };
    return Response.json({ error: { message, code: "backend_unavailable" } }, init);
  }
}

export function settingsOf(bindings: object): Record<string, string> {
  const given = Object.entries(bindings).filter(
    ([name, value]) => forwardedSettings.includes(name) && typeof value === "string",
  );
  return Object.fromEntries(given);
}

/** Waits until the container stops, so that the next call starts it again. Never rejects. */
async function monitored(container: BackendProcess): Promise<void> {
  try {
    await container.setInactivityTimeout(idleMs);
    await container.monitor();
    console.log(JSON.stringify({ level: "info", event: "container_stopped" }));
  } catch (error) {
    console.warn(JSON.stringify({ level: "warn", event: "container_failed", cause: String(error) }));
  }
}
