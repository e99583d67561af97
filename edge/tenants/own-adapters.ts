/** Records and names of a tenant's own adapters. Pure; they are stored by tenant-adapter-store.ts and fitted by backends. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { AdapterAnswer } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";

export interface OwnAdapter {
  name: string;
  /** The tenant's own content address of its bytes. */
  hash: string;
  /** The manifest it was made for. It cannot be used with another. */
  manifestHash: string;
  /** Mean prompt embedding of its examples, of length 1, [P]. */
  centroid: number[];
  parts: AdapterAnswer["parts"];
  /** Measured on held-out examples; null if there was none, and the base is served. */
  gain: AdapterAnswer["gain"];
  examples: number;
  tokens: number;
  /** Unix time in seconds. */
  created: number;
}

const namePattern = /^[a-z0-9][a-z0-9_-]{0,62}$/;
/** Names with another meaning in `model: "<base>:…"`, for some set of artifacts. */
const reserved = /^(auto|base|nearest|off|static|c\d+)$/;

/** Throws invalid_request for a name that is malformed or reserved. */
export function requireFreeName(name: string, { centroids }: Manifest): void {
  const refuse = (why: string) =>
    new ServiceError("invalid_request", `Invalid request: name is ${JSON.stringify(name.slice(0, 80))}; ${why}.`, {
      param: "name",
    });
  if (!namePattern.test(name)) {
    throw refuse("it must be 1 to 63 characters of a-z, 0-9, - and _, and begin with a letter or a digit");
  }
  if (reserved.test(name) || centroids.some(({ id }) => id === name))
    throw refuse("that name is a centroid's, or reserved");
}

/** The own adapters that a request names, by name. */
export interface NamedAdapters extends ReadonlyMap<string, OwnAdapter> {
  /** All names that the tenant has, if the request names an unknown one. */
  readonly others?: readonly string[];
}

/** Names that an error lists. */
const shownNames = 8;

/** The tenant's own adapters, for an error message; empty if it has none. */
export function ownNamesText({ others = [] }: NamedAdapters, prefix = ""): string {
  if (others.length === 0) return "";
  const shown = others.slice(0, shownNames).map((name) => `${prefix}${name}`);
  return `; your own: ${shown.join(", ")}${others.length > shownNames ? " and more (GET /v1/adapters)" : ""}`;
}

/** The part of `model` after the served name; empty if there is none. */
export function suffixOf(model: string | null, { model: { servedAs } }: Manifest): string {
  return model?.startsWith(`${servedAs}:`) ? model.slice(servedAs.length + 1) : "";
}

/** `name` if an own adapter can have it, else null. */
export function ownNameOf(name: string, manifest: Manifest): string | null {
  const isKnown = reserved.test(name) || manifest.centroids.some(({ id }) => id === name);
  return namePattern.test(name) && !isKnown ? name : null;
}

/** Throws adapter_outdated for one of another manifest. */
export function requireCurrent(adapter: OwnAdapter, manifestHash: string): void {
  if (adapter.manifestHash === manifestHash) return;
  throw new ServiceError(
    "adapter_outdated",
    `The adapter ${adapter.name} was made for the manifest ${adapter.manifestHash}; ${manifestHash} is served now. Delete it and create it again from its examples.`,
    { param: "model" },
  );
}
