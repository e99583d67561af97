/**
 * The HTTP server of `npm start`, in front of wrangler's development server. Wrangler answers paths of its own without a
 * key and obeys request headers of its own; this proxy passes on only what a deployed Worker would be asked: requests to an
 * allowed host, outside those paths, without those headers. Not here: the Worker, and TLS.
 */
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  request as openRequest,
  type ServerResponse,
} from "node:http";
import { pipeline } from "node:stream";
import { limits } from "../shared/contracts/limits.ts";
import { envelopeOf, ServiceError, statusOf } from "../shared/errors.ts";
import { isLoopback } from "../shared/loopback.ts";
import { localHost } from "./ports.ts";

/** Paths that wrangler and miniflare answer themselves; on the platform the first is Cloudflare's. */
const reservedPaths = ["/cdn-cgi", "/__cf_local"];
/** RFC 9110 section 7.6.1: headers of one connection. `expect` is answered by this server. */
const connectionHeaders = new Set([
  ...["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"],
]);
/** Above the Worker's own limit, so that the Worker answers. Bytes. */
const headBytes = 131_072;

/**
 * Starts the proxy on a loopback port and returns its origin; `target` is wrangler's server, `allowedHosts` are the names
 * besides loopback ones that it answers to. It ends with this process. Rejects where the port cannot be used.
 */
export async function startLocalProxy(port: number, target: URL, allowedHosts: readonly string[]): Promise<string> {
  const server = createServer({ maxHeaderSize: headBytes, requestTimeout: 0 }, (request, response) => {
    const refusal = requestRefusal(request.headers.host, request.url ?? "", allowedHosts);
    if (refusal) return refuse(response, refusal);
    try {
      passOn(request, response, target);
    } catch (cause) {
      // Node's client is stricter about targets and headers than its server.
      refuse(response, new ServiceError("invalid_request", "The request cannot be passed on.", { cause }));
    }
  });
  await once(server.listen(port, localHost), "listening");
  return `http://${localHost}:${(server.address() as { port: number }).port}`;
}

/** Host names in EDGE_HOSTS. */
export function hostsOf(edgeHosts: string | undefined): string[] {
  const names = (edgeHosts ?? "").split(",").map((name) => name.trim().toLowerCase());
  return names.filter((name) => name !== "");
}

/** Why a request is not passed on, or null. Browsers let no page choose the Host header, so it tells DNS rebinding. */
function requestRefusal(
  host: string | undefined,
  target: string,
  allowedHosts: readonly string[],
): ServiceError | null {
  const name = hostName(host ?? "");
  if (name === null || !(isLoopback(name) || allowedHosts.includes(name))) {
    const shown = JSON.stringify((host ?? "").slice(0, 80));
    return new ServiceError(
      "forbidden",
      `The Host header is ${shown}; allowed are loopback names and those of EDGE_HOSTS.`,
    );
  }
  // Parsed as wrangler parses it, so that both see the same path.
  const path = target.startsWith("/") ? URL.parse(`http://host${target}`)?.pathname : undefined;
  const isReserved = reservedPaths.some((reserved) => path === reserved || path?.startsWith(`${reserved}/`));
  if (path === undefined || isReserved) return new ServiceError("not_found", `There is no ${target.slice(0, 200)}.`);
  return null;
}

/** Name in a Host header, in lower case and without the port; null where the header is not a name or an IPv6 address. */
function hostName(host: string): string | null {
  return /^([a-z\d.-]+|\[[a-f\d:]+\])(:\d*)?$/i.exec(host)?.[1].toLowerCase() ?? null;
}

/**
 * Answers `error` at once. The connection closes when the request's body has been read, or after the time that a body has:
 * closing it earlier resets it, and the client may lose the answer.
 */
function refuse(response: ServerResponse, error: ServiceError): void {
  const json = JSON.stringify(envelopeOf(error));
  const headers: OutgoingHttpHeaders = {
    ...{ "content-type": "application/json; charset=utf-8", "content-length": Buffer.byteLength(json) },
    connection: "close",
  };
  if (error.retryAfterSeconds !== null) headers["retry-after"] = String(error.retryAfterSeconds);
  response.writeHead(statusOf(error.kind), headers);
  const { req: request } = response;
  request.unpipe();
  if (request.readableEnded) {
    response.end(json);
    return;
  }
  response.write(json);
  const timer = setTimeout(() => response.end(), limits.bodyMs);
  request.once("end", () => response.end());
  response.once("close", () => clearTimeout(timer));
  request.resume();
}

function passOn(request: IncomingMessage, response: ServerResponse, target: URL): void {
  // A connection for each request: one that is kept may be closed by wrangler just as it is used.
  const outgoing = openRequest({
    ...{ hostname: target.hostname, port: target.port, agent: false },
    ...{ method: request.method, path: request.url, headers: headersFor(request) },
  });
  let bytes = 0;
  /** Why no answer of the Worker can be passed on. */
  let failure: ServiceError | null = null;
  const fail = (error: ServiceError) => {
    failure ??= error;
    // Not while more comes of the body: its length tells why wrangler failed.
    request.unpipe();
    request.resume();
    if (request.readableEnded || bytes > limits.bodyBytes) refuseFailed();
  };
  const refuseFailed = () => {
    if (!failure || response.headersSent) return;
    const message = `The body has at least ${bytes} bytes, the maximum is ${limits.bodyBytes}.`;
    refuse(response, bytes > limits.bodyBytes ? new ServiceError("body_too_large", message) : failure);
  };
  outgoing.on("response", (incoming) => {
    if (failure || isInternalError(incoming)) {
      incoming.resume();
      return fail(unavailable("The edge failed on this request; try again."));
    }
    response.writeHead(incoming.statusCode ?? 502, endToEnd(incoming));
    response.flushHeaders();
    // Breaks off the client's connection where wrangler's breaks off, and the other way round.
    pipeline(incoming, response, () => undefined);
  });
  outgoing.on("error", (cause) => {
    if (!failure && response.headersSent) return void (response.writableFinished || response.destroy());
    fail(unavailable("The edge does not answer; try again.", cause));
  });
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > limits.bodyBytes) refuseFailed();
  });
  request.on("end", refuseFailed);
  response.on("close", () => {
    if (!response.writableFinished) outgoing.destroy();
  });
  // Not `pipeline`: an answer may come before the body has been read.
  request.on("error", () => outgoing.destroy());
  request.pipe(outgoing);
}

function unavailable(message: string, cause?: unknown): ServiceError {
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}

/** Wrangler's or miniflare's own, with a stack trace: the Worker answers errors as JSON. */
function isInternalError({ statusCode = 0, headers }: IncomingMessage): boolean {
  return statusCode >= 500 && !/^application\/json\b/.test(headers["content-type"] ?? "");
}

function headersFor(request: IncomingMessage): OutgoingHttpHeaders {
  const headers = Object.entries(endToEnd(request)).filter(([name]) => !name.startsWith("mf-"));
  const isChunked = request.headers["transfer-encoding"] !== undefined;
  return {
    ...Object.fromEntries(headers),
    ...(isChunked && { "transfer-encoding": "chunked" }),
    // Else wrangler closes the connection behind an answer that comes before the body's end, and the answer is lost.
    connection: "keep-alive",
    // The platform sets it, whatever the client sent.
    "cf-connecting-ip": request.socket.remoteAddress ?? "",
  };
}

function endToEnd({ headers }: IncomingMessage): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !connectionHeaders.has(name)));
}
