/**
 * A backend in a Cloudflare Container: an object that starts its container with the first call, and passes calls on. One that
 * starts or restarts answers 503 at once, so that the caller's routing can use another backend meanwhile.
 * https://developers.cloudflare.com/containers/api/durable-object-container/
 */
import { DurableObject } from "cloudflare:workers";

/** Port of the image (infra/Dockerfile). */
const port = 8788;
/** A container without calls for this long is stopped, in milliseconds: longer than gaps between a person's requests. */
const idleMs = 10 * 60_000;

/** Variables of the container's environment. */
export type ContainerSettings = Record<string, string>;

/** What of the platform's container is used. */
export type BackendProcess = Pick<Container, "running" | "start" | "monitor" | "setInactivityTimeout" | "getTcpPort">;

/** Bindings of the Worker that the container's backend has as settings, where they are set. */
const passedOn = ["BACKEND_SECRETS", "ARTIFACTS_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

export class BackendContainer extends DurableObject {
  override async fetch(request: Request): Promise<Response> {
    const { container } = this.ctx;
    if (!container) throw new Error("the class BackendContainer has no entry in [[containers]] of wrangler.toml");
    return callContainer(container, request, settingsOf(this.env), (work) => this.ctx.waitUntil(work));
  }
}

/** Starts the container where it does not run. `background` keeps the object while its container runs. */
export async function callContainer(
  container: BackendProcess,
  request: Request,
  settings: ContainerSettings,
  background: (work: Promise<void>) => void,
): Promise<Response> {
  if (!container.running) {
    // Only published artifacts come from elsewhere.
    container.start({ env: settings, enableInternet: "ARTIFACTS_URL" in settings });
    background(watched(container));
  }
  try {
    return await container.getTcpPort(port).fetch(request);
  } catch (cause) {
    const message = `The container is starting or has stopped: ${cause}`;
    const init = { status: 503, headers: { "retry-after": "2" } };
    return Response.json({ error: { message, code: "backend_unavailable" } }, init);
  }
}

export function settingsOf(bindings: object): ContainerSettings {
  const given = Object.entries(bindings).filter(
    ([name, value]) => passedOn.includes(name) && typeof value === "string",
  );
  return { WEIGHT_FORMAT: "int8", ...Object.fromEntries(given) };
}

/** Never rejects: the next call starts a container that has stopped. */
async function watched(container: BackendProcess): Promise<void> {
  try {
    await container.setInactivityTimeout(idleMs);
    await container.monitor();
    console.log(JSON.stringify({ level: "info", event: "container_stopped" }));
  } catch (error) {
    console.warn(JSON.stringify({ level: "warn", event: "container_failed", cause: String(error) }));
  }
}
