/**
 * The Worker's entry in `chameleon start`: worker.ts behind a check of the Host header, against pages that reach this machine's
 * loopback address under a name of their own (DNS rebinding). For a deployed Worker the platform routes by host name.
 */
import { env } from "cloudflare:workers";
import { envelopeOf, ServiceError, statusOf } from "../shared/errors.ts";
import { isLoopback } from "../shared/loopback.ts";
import { settlesWithin } from "../shared/settles-within.ts";
import worker from "./worker.ts";

export * from "./worker.ts";

/** What is read of a refused request's body, so that its client, which may still be sending, can receive the refusal. */
const drained = { bytes: 16 * 2 ** 20, ms: 1000 };

/** Host names besides loopback ones that requests may have, separated by commas. */
const { EDGE_HOSTS = "" } = env as { EDGE_HOSTS?: string };
const allowed = EDGE_HOSTS.split(",").map((name) => name.trim().toLowerCase());

export default {
  async fetch(request: Request): Promise<Response> {
    const host = request.headers.get("host") ?? "";
    // A name, or an IPv6 address in brackets, without the port.
    const name = /^([a-z\d.-]+|\[[a-f\d:]+\])(:\d*)?$/i.exec(host)?.[1].toLowerCase();
    if (name !== undefined && (isLoopback(name) || allowed.includes(name))) {
      const response = await worker.fetch(request);
      if (!response.ok) await drain(request);
      return response;
    }
    const shown = JSON.stringify(host.slice(0, 80));
    const message = `The Host header is ${shown}; allowed are loopback names and those of EDGE_HOSTS.`;
    const error = new ServiceError("forbidden", message);
    return Response.json(envelopeOf(error), { status: statusOf(error.kind) });
  },
};

/**
 * Reads and discards what is left of a body, within bounds. workerd closes a connection with unread input, and a client that is
 * still sending then gets an error instead of the response. A deployed Worker has the platform's proxy in front of it.
 */
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
