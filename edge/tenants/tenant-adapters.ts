/** What the routes need from own adapters. Durable Objects store own adapters, and backends fit them. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { AdapterField } from "../../shared/contracts/generation.ts";
import type { AdapterRequest } from "../../shared/contracts/inference.ts";
import { type Jurisdiction, jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { unavailable } from "../../shared/errors.ts";
import type { BackendClient, MadeAdapter } from "../dispatch/client.ts";
import { makeAdapter } from "../dispatch/make-adapter.ts";
import { setNewest } from "../platform/newest.ts";
import { objectNamed } from "../platform/objects.ts";
import { Refreshed, type RefreshedParts } from "../platform/refreshed.ts";
import { type Access, seesOwnAdapters } from "./keys.ts";
import type { NearestAdapters } from "./nearest-adapters.ts";
import { type NamedAdapters, type OwnAdapter, ownNameOf, suffixOf } from "./own-adapters.ts";
import type { TenantAdapterStore } from "./tenant-adapter-store.ts";

/** The store's methods as callers see them. The platform's own type of the stub does not keep tuple types. */
export type OwnAdapters = {
  [Name in keyof TenantAdapterStore]: TenantAdapterStore[Name] extends (...parameters: infer P) => infer R
    ? (...parameters: P) => Promise<Awaited<R>>
    : never;
};

type Viewer = Pick<Access, "tenant" | "scopes" | "aliases">;

export interface TenantAdapters {
  of(tenant: string): OwnAdapters;
  visibleTo(access: Viewer): Promise<OwnAdapter[]>;
  named(access: Viewer, model: string | null, adapter: AdapterField | null, manifest: Manifest): Promise<NamedAdapters>;
  /** The adapters that `auto` may use for each embedding [S, P]. The absence of adapters is cached for `noneMs`. */
  nearest(access: Viewer, embeddings: Float32Array[], manifestHash: string): Promise<NearestAdapters>;
  refit(tenant: string, served: string): void;
  noteNew(tenant: string): void;
  /** `begun` is called when a backend begins to compute. Throws a ServiceError. */
  create(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter>;
}

/** Fails a request, because its answer without the tenant's adapters would differ from later answers with them. */
const storeAway = unavailable("Your own adapters cannot be looked up now");
const noneMs = 10_000;
const lookMs = 5000;
const maxTenants = 1000;

interface TenantAdapterParts extends RefreshedParts {
  stores: DurableObjectNamespace<TenantAdapterStore>;
  clients(jurisdiction: Jurisdiction | null): Pick<BackendClient, "createAdapter">[];
}

export function createTenantAdapters(parts: TenantAdapterParts): TenantAdapters {
  const { stores, clients } = parts;
  const of = (tenant: string) => objectNamed(stores, tenant) as unknown as OwnAdapters;
  /** By tenant without adapters at the last look-up: whether the tenant has adapters now. */
  const without = new Map<string, Refreshed<boolean>>();
  const times = { refreshMs: noneMs, expireMs: Number.POSITIVE_INFINITY, limitMs: lookMs, isShared: false };
  const ignore = () => undefined;
  return {
    of,
    refit: (tenant, served) => parts.background(of(tenant).refitLater(served).catch(ignore)),
    noteNew: (tenant) => void without.delete(tenant),
    async nearest({ tenant, scopes }, embeddings, manifestHash) {
      const none = { hasAny: false, manifestHash, nearest: embeddings.map(() => []) };
      if (!seesOwnAdapters(scopes)) return none;
      const known = without.get(tenant);
      const look = () => of(tenant).nearest([], manifestHash);
      if (known && !(await known.get(async () => (await look()).hasAny).catch(() => false))) return none;
      const found = await of(tenant).nearest(embeddings, manifestHash).catch(storeAway);
      if (found.hasAny) without.delete(tenant);
      else {
        const seen = new Refreshed<boolean>(parts, times);
        await seen.get(async () => false);
        setNewest(without, tenant, seen, maxTenants);
      }
      return found;
    },
    visibleTo: async (access) => (seesOwnAdapters(access.scopes) ? of(access.tenant).list() : []),
    async named(access, model, adapter, manifest) {
      const listed = typeof adapter === "string" ? [adapter] : (adapter ?? []).map(({ id }) => id);
      const names = [suffixOf(model, manifest), ...listed].flatMap((text) => ownNameOf(text, manifest) ?? []);
      const aliases = Object.keys(access.aliases ?? {});
      if (!seesOwnAdapters(access.scopes)) return Object.assign(new Map(), { aliases });
      const found = await Promise.all([...new Set(names)].map((name) => of(access.tenant).find(name)));
      const own = found.filter((one) => one !== null);
      const named = Object.assign(new Map(own.map((one) => [one.name, one])), { aliases });
      if (own.length === found.length) return named;
      return Object.assign(named, { others: (await of(access.tenant).list()).map(({ name }) => name) });
    },
    create: (request, signal, begun) => makeAdapter(clients(jurisdictionOf(request.tenant)), request, signal, begun),
  };
}
