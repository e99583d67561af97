/** The pages of the documents site, in its menu's order. */
import type { ReferencePage } from "./reference.ts";

export interface Page {
  /** Path below /docs/, without an extension. */
  path: string;
  title: string;
  /** The page's Markdown file or, for a reference page, its source. Links to this file lead to the page. */
  file: string;
  code: ReferencePage | null;
}

const file = (path: string, title: string, file: string): Page => ({ path, title, file, code: null });
const code = (page: ReferencePage, title: string, file: string): Page => {
  return { path: `reference/${page}`, title, file, code: page };
};

export const sections: readonly { title: string; pages: readonly Page[] }[] = [
  {
    title: "Start",
    pages: [
      file("start", "Ten minutes", "infra/docs/start.md"),
      file("guides", "Guides by job", "infra/docs/guides.md"),
      file("overview", "Overview", "README.md"),
    ],
  },
  {
    title: "How to",
    pages: [
      file("how-to/deploy", "Deploy to Cloudflare", "infra/docs/deploy.md"),
      file("how-to/self-host", "Host it yourself", "infra/docs/self-host.md"),
      file("how-to/backends", "Run several backends", "infra/docs/backends.md"),
      file("how-to/fleet", "Images and Kubernetes", "infra/docs/fleet.md"),
      file("how-to/gpu", "A GPU backend", "infra/docs/gpu.md"),
      file("how-to/tenants", "Tenants and limits", "infra/docs/tenants.md"),
      file("how-to/publish", "Publish and roll back", "infra/docs/publish.md"),
      file("how-to/watch", "Watch", "infra/docs/watch.md"),
      file("how-to/runbook", "Runbook", "infra/docs/runbook.md"),
      file("how-to/train", "Train on your text", "gpu-backend/training/TRAINING.md"),
      file("how-to/models", "Bring another model", "gpu-backend/MODELS.md"),
      file("how-to/troubleshoot", "Troubleshoot", "infra/docs/troubleshooting.md"),
    ],
  },
  {
    title: "Reference",
    pages: [
      file("reference/api", "API", "edge/API.md"),
      code("errors", "Errors", "shared/errors.ts"),
      code("limits", "Limits", "shared/contracts/limits.ts"),
      code("settings", "Settings", "gpu-backend/config.ts"),
      code("commands", "Commands", "infra/commands.mjs"),
      code("metrics", "Metrics", "gpu-backend/http/metrics.ts"),
      file("reference/artifacts", "Artifact format", "shared/artifacts/FORMAT.md"),
      file("reference/changelog", "Changelog", "CHANGELOG.md"),
    ],
  },
  {
    title: "Explained",
    pages: [
      file("explained/method", "The method", "infra/docs/method.md"),
      file("explained/architecture", "Architecture", "infra/docs/architecture.md"),
      file("explained/security", "Security", "edge/SECURITY.md"),
      file("explained/speed", "Speed", "gpu-backend/SPEED.md"),
      file("explained/model-card", "Model card", "gpu-backend/models/smollm2-135m/MODEL_CARD.md"),
    ],
  },
];

export const pages: readonly Page[] = sections.flatMap((section) => section.pages);
