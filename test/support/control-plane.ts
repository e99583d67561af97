/**
 * A local server that stands in for Cloudflare's API and for the deployed edge. The real wrangler calls it from a process of its own
 * (CLOUDFLARE_API_BASE_URL), where MSW cannot take its requests.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { type ServerType, serve } from "@hono/node-server";
import { type Context, Hono } from "hono";

export interface Version {
  id: string;
  migrationTag: string | null;
  works: boolean;
}

export interface Deployment {
  created_on: string;
  versions: { version_id: string; percentage: number }[];
}

export class ControlPlane {
  readonly versions: Version[] = [];
  /** Oldest first. */
  readonly deployments: Deployment[] = [];
  nextUpload: "works" | "broken" | "refused" = "works";
  readonly unknown: string[] = [];
  /** For each request that picked no version, the version that answered. */
  readonly traffic: string[] = [];
  url = "";
  #server: ServerType | null = null;

  async start(worker: string, migrationTag: string): Promise<void> {
    this.#add(migrationTag, true);
    this.#deploy([{ version_id: this.versions[0].id, percentage: 100 }]);
    this.#server = serve({ fetch: this.#app(worker).fetch, port: 0, hostname: "127.0.0.1" });
    await once(this.#server, "listening");
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server?.close();
  }

  get shares(): Record<string, number> {
    return Object.fromEntries(this.deployments.at(-1)!.versions.map((one) => [one.version_id, one.percentage]));
  }

  #add(migrationTag: string | null, works: boolean): Version {
    const id = `00000000-0000-4000-8000-${String(this.versions.length + 1).padStart(12, "0")}`;
    const version = { id, migrationTag, works };
    this.versions.push(version);
    return version;
  }

  #deploy(versions: Deployment["versions"]): Deployment {
    const at = new Date(Date.UTC(2026, 0, 1) + this.deployments.length * 1000).toISOString();
    const deployment = { created_on: at, versions };
    this.deployments.push(deployment);
    return deployment;
  }

  #app(worker: string): Hono {
    const app = new Hono();
    const scripts = `/client/v4/accounts/:account/workers/scripts/${worker}`;
    const ok = (c: Context, result: unknown) => c.json({ success: true, errors: [], messages: [], result });
    const refuse = (c: Context, code: number, message: string) =>
      c.json({ success: false, errors: [{ code, message }], messages: [], result: null }, 400);
    const shown = ({ id, migrationTag }: Version) => ({
      id,
      number: 1,
      metadata: { created_on: "2026-01-01T00:00:00Z", source: "wrangler", has_preview: false },
      annotations: {},
      startup_time_ms: 1,
      resources: { script: { etag: id }, script_runtime: { migration_tag: migrationTag }, bindings: [] },
    });
    const newest = () => this.versions.at(-1)!;
    const uploaded = async (c: Context): Promise<Version | null> => {
      const metadata = JSON.parse(String((await c.req.parseBody()).metadata)) as { migrations?: { new_tag: string } };
      if (this.nextUpload === "refused") return null;
      return this.#add(metadata.migrations?.new_tag ?? newest().migrationTag, this.nextUpload === "works");
    };

    app.get(`/client/v4/accounts/:account/workers/services/${worker}`, (c) => {
      const script = { tag: "t", tags: [], migration_tag: newest().migrationTag, last_deployed_from: "wrangler" };
      return ok(c, { default_environment: { environment: "production", script } });
    });
    app.get(`${scripts}/deployments`, (c) => ok(c, { deployments: this.deployments.toReversed() }));
    app.post(`${scripts}/deployments`, async (c) => {
      const { versions } = await c.req.json<Deployment>();
      const tags = versions.map(({ version_id: id }) => this.versions.find((one) => one.id === id)?.migrationTag);
      if (tags.some((tag) => tag !== newest().migrationTag)) return refuse(c, 10220, "a migration lies between");
      return ok(c, { id: "d", ...this.#deploy(versions) });
    });
    app.get(`${scripts}/versions`, (c) => ok(c, { items: this.versions.map(shown) }));
    app.get(`${scripts}/versions/:id`, (c) => ok(c, shown(this.versions.find(({ id }) => id === c.req.param("id"))!)));
    app.post(`${scripts}/versions`, async (c) => {
      const version = await uploaded(c);
      return version ? ok(c, shown(version)) : refuse(c, 10021, "the script does not start");
    });
    app.put(scripts, async (c) => {
      const version = await uploaded(c);
      if (!version) return refuse(c, 10021, "the script does not start");
      this.#deploy([{ version_id: version.id, percentage: 100 }]);
      return ok(c, { id: worker, deployment_id: version.id.replaceAll("-", ""), startup_time_ms: 1 });
    });
    app.get(`${scripts}/secrets`, (c) => ok(c, [{ name: "BACKEND_SECRETS", type: "secret_text" }]));
    app.get(`${scripts}/settings`, (c) => ok(c, { bindings: [], tags: [] }));
    app.post(`${scripts}/subdomain`, (c) => ok(c, { enabled: false, previews_enabled: false }));
    app.patch(`${scripts}/script-settings`, (c) => ok(c, {}));
    app.get(`/client/v4/accounts/:account/workers/workers/${worker}`, (c) =>
      ok(c, { subdomain: { enabled: false, previews_enabled: false } }),
    );
    app.all("/client/*", (c) => {
      if (!c.req.path.includes(`/${worker}`)) return refuse(c, 10007, "This Worker does not exist on your account.");
      this.unknown.push(`${c.req.method} ${c.req.path}`);
      return refuse(c, 7003, "no such route");
    });

    app.all("*", (c) => {
      const version = this.#answering(worker, c.req.header("cloudflare-workers-version-overrides"));
      if (c.req.path === "/healthz") return c.json({ status: "ok", version: version.id });
      if (!version.works) return c.json({ error: { message: "no backend" } }, 503);
      if (c.req.path === "/readyz") return c.json({ status: "ready" });
      if (!c.req.header("authorization")) return c.json({ error: { message: "no key" } }, 401);
      return c.json({ usage: { completion_tokens: 1 } });
    });
    return app;
  }

  /** The version that the header picks, even one at 0%; else the version with most traffic. */
  #answering(worker: string, header: string | undefined): Version {
    const picked = header?.startsWith(`${worker}="`) ? header.slice(worker.length + 2, -1) : null;
    if (picked !== null && picked in this.shares) return this.versions.find(({ id }) => id === picked)!;
    const [most] = Object.entries(this.shares).sort(([, a], [, b]) => b - a);
    this.traffic.push(most[0]);
    return this.versions.find(({ id }) => id === most[0])!;
  }
}
