/**
 * The Worker's entry in `chameleon start`: worker.ts behind a check of the Host header, against pages that reach this machine's
 * loopback address under a name of their own (DNS rebinding). For a deployed Worker the platform routes by host name.
 */
import { env } from "cloudflare:workers";
import { envelopeOf, ServiceError, statusOf } from "../shared/errors.ts";
import { isLoopback } from "../shared/loopback.ts";
import worker from "./worker.ts";

export * from "./worker.ts";

/** Host names besides loopback ones that requests may have, separated by commas. */
const { EDGE_HOSTS = "" } = env as { EDGE_HOSTS?: string };
const allowed = EDGE_HOSTS.split(",").map((name) => name.trim().toLowerCase());

export default {
  fetch(request: Request): Response | Promise<Response> {
    const host = request.headers.get("host") ?? "";
    // A name, or an IPv6 address in brackets, without the port.
    const name = /^([a-z\d.-]+|\[[a-f\d:]+\])(:\d*)?$/i.exec(host)?.[1].toLowerCase();
    if (name !== undefined && (isLoopback(name) || allowed.includes(name))) return worker.fetch(request);
    const shown = JSON.stringify(host.slice(0, 80));
    const message = `The Host header is ${shown}; allowed are loopback names and those of EDGE_HOSTS.`;
    const error = new ServiceError("forbidden", message);
    return Response.json(envelopeOf(error), { status: statusOf(error.kind) });
  },
};
