/** Which calls must be signed, and where head and body are held against their signature. */
import type { Context, MiddlewareHandler } from "hono";
import { parseSignature } from "../../shared/contracts/call-signature.ts";
import { nameHeader } from "../../shared/contracts/process-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import type { CallVerifier } from "./call-verifier.ts";

/** For all that costs work or is a tenant's: only the edge may. Before any of the body is read. */
export function requireSignature(verifier: CallVerifier): MiddlewareHandler {
  return async ({ req }, next) => {
    await verifier.verify(req.method, pathOf(req), req.header("authorization"), req.header(nameHeader) ?? null);
    await next();
  };
}

/** Behind `requireSignature` and the limit on bodies. */
export const requireSignedBody: MiddlewareHandler = async ({ req }, next) => {
  const signed = parseSignature(req.header("authorization") ?? "", req.method, pathOf(req));
  if (signed?.bodySha256 !== (await sha256Hex(new Uint8Array(await req.arrayBuffer())))) {
    throw new ServiceError("bad_signature", "The call's signature is not accepted: its body is another.");
  }
  await next();
};

/**
 * For what orchestrators ask without a signature, too: one that is there must be right, so that the edge learns of another
 * secret from its probe, and not from a completion.
 */
export function checkSignature(verifier: CallVerifier): MiddlewareHandler {
  const check = requireSignature(verifier);
  return (context, next) => (context.req.header("authorization") === undefined ? next() : check(context, next));
}

function pathOf({ url }: Context["req"]): string {
  const { pathname, search } = new URL(url);
  return pathname + search;
}
