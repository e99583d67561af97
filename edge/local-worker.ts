/**
 * The Worker's entry in `chameleon start`, with what the platform adds for a deployed Worker.
 * Security: checks the Host header, because a web page could reach the loopback address under its own name (DNS rebinding).
 */
import { env } from "cloudflare:workers";
import { envelopeOf, ServiceError, statusOf } from "../shared/errors.ts";
import { isLoopback } from "../shared/loopback.ts";
import { settlesWithin } from "../shared/settles-within.ts";
import { clientOf } from "./platform/client-address.ts";
import worker from "./worker.ts";

export * from "./worker.ts";

const drained = { bytes: 16 * 2 ** 20, ms: 1000 };

interface LocalVariables {
  /** Host names allowed in addition to loopback names, separated by commas; `*` allows any name. */
  EDGE_HOSTS?: string;
  /** Set if every connection comes from a trusted proxy. */
  TRUST_PROXY?: string;
}
const { EDGE_HOSTS = "", TRUST_PROXY } = env as LocalVariables;
const allowed = EDGE_HOSTS.split(",").map((name) => name.trim().toLowerCase());
const isAnyAllowed = allowed.includes("*");

export default {
  async fetch(received: Request): Promise<Response> {
    const host = received.headers.get("host") ?? "";
    // A name, or an IPv6 address in brackets, without the port.
    const name = /^([a-z\d.-]+|\[[a-f\d:]+\])(:\d*)?$/i.exec(host)?.[1].toLowerCase();
    if (name !== undefined && (isAnyAllowed || isLoopback(name) || allowed.includes(name))) {
      const request = withClient(received);
      const response = (await drainingAnswer(request)) ?? (await worker.fetch(request));
      if (!response.ok) await drain(request);
      return response;
    }
    const shown = JSON.stringify(host.slice(0, 80));
    const message = `The Host header is ${shown}; allowed are loopback names and those of EDGE_HOSTS.`;
    return refusal(new ServiceError("forbidden", message));
  },
};

function refusal(error: ServiceError): Response {
  return Response.json(envelopeOf(error), { status: statusOf(error.kind) });
}

/** Sets `cf-connecting-ip` to the client's address, and the URL's scheme to a trusted proxy's scheme. */
function withClient(received: Request): Request {
  const { address, scheme } = clientOf(received.cf, received.headers, TRUST_PROXY !== undefined);
  // workerd sets the header to 127.0.0.1 itself (infra/workerd/config.ts).
  if (address === "127.0.0.1" && scheme === null) return received;
  const request = new Request(scheme === null ? received.url : received.url.replace(/^https?/, scheme), received);
  request.headers.set("cf-connecting-ip", address);
  return request;
}

/** While the server drains, the assets have a file `draining` (infra/serve-edge.ts). */
async function drainingAnswer({ url }: Request): Promise<Response | null> {
  if (new URL(url).pathname !== "/readyz") return null;
  const file = await env.ASSETS.fetch("https://assets/draining");
  await file.body?.cancel();
  return file.ok ? refusal(new ServiceError("backend_unavailable", "The server is ending.")) : null;
}

/** workerd closes a connection with unread input, so a client that is still sending would get an error instead of the response. */
async function drain({ body }: Request): Promise<void> {
  if (!body || body.locked) return;
  const reader = body.getReader();
  const read = async () => {
    for (let bytes = 0; bytes < drained.bytes; ) {
      const { done, value } = await reader.read();
      if (done) return;
      bytes += value.byteLength;
    }
  };
  await settlesWithin(read(), drained.ms);
  reader.cancel().catch(() => undefined);
}
