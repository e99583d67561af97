/**
 * What the page calls centroids: domains, by names that people use. The embedded model's are known by their characteristic
 * tokens; those of other artifacts are named by these tokens.
 */
import type { CentroidList } from "../../shared/contracts/responses.ts";

export type Centroid = CentroidList["data"][number];

export interface Domain {
  name: string;
  /** A prompt of this kind; null where none is known. */
  example: string | null;
}

/** By the tokens that `/v1/centroids` calls its label. */
const known: Record<string, Domain> = {
  "des ser est direct par": {
    name: "French and Spanish",
    example: "Cette directive permet de définir le nom du serveur. Elle est utilisée par le module pour les requêtes",
  },
  "total How much each month": {
    name: "Maths: prices",
    example: "Janet has 3 boxes of pencils. Each box holds 12 pencils and costs $4. How much money does she",
  },
  "total many hour number min": {
    name: "Maths: amounts",
    example: "Tom walks 4 miles every hour for 3 hours. If Ann walks half as many miles, how many miles do",
  },
  "bel mod ver http say": {
    name: "Turkish",
    example: "Bu yönerge sunucunun adını belirtir. İstemciler için bir sayfa",
  },
  "the and his him shall": {
    name: "Bible",
    example: "And the LORD said unto Moses, Go unto the children of Israel, and they shall",
  },
  "who The adj his person": {
    name: "Satirical dictionary",
    example: "CRITIC, n. A person who boasts himself hard to please. POLITICIAN, n. A person who",
  },
  "See term program software also": {
    name: "Hacker jargon",
    example: "hack: n. Originally, a quick job that produces what is needed. See also kluge. A term for software",
  },
  "the our and been have": {
    name: "Speeches",
    example: "Our nation has been strong, and the people have been given by Congress the right to",
  },
  "her she was had you": {
    name: "Jane Austen",
    example: "Elizabeth was surprised that he should say so, and she had no wish to",
  },
  "Python function object module version": {
    name: "Python",
    example: "The function returns a new object of this class. Changed in version 3.8: the module",
  },
  "https description require stream API": {
    name: "JavaScript packages",
    example: "# read-stream\n\nAn API for streams.\n\n```js\nconst read = require('read-stream')\n",
  },
  "Per you use sub print": {
    name: "Perl",
    example: '=head1 SYNOPSIS\n\n    use strict;\n    my $name = shift;\n    print "Hello, $name',
  },
  "table database col index statement": {
    name: "Databases",
    example: "The SELECT statement returns rows from a table. If the WHERE clause is used with an index",
  },
  "seconds extension server filter header": {
    name: "Server manuals",
    example: "timeout: seconds that the server waits for a header. The filter chain closes the connection after",
  },
  "server Cont virtual host direct": {
    name: "Virtual hosts",
    example: "<VirtualHost *:80>\n    ServerName example.com\n    DocumentRoot /var/www\n</VirtualHost>",
  },
  "rele cap changes update add": {
    name: "Release notes",
    example: "## 4.2.1\n* update the release\n* add changes for new releases, capped\n*",
  },
};

export function domainOf({ label }: Pick<Centroid, "label">): Domain {
  const words = label.map((piece) => piece.trim()).filter(Boolean);
  const joined = words.join(" ");
  if (Object.hasOwn(known, joined)) return known[joined];
  return { name: words.slice(0, 3).join(", ") || "No domain yet", example: null };
}

/** Where no known domain is served. */
const anyExample = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be";

/** Domains that have an example, in the order of the table above: the plainest to see comes first. */
export function examplesOf(centroids: readonly Centroid[]): { name: string; example: string }[] {
  const served = centroids.map(domainOf);
  const found = Object.values(known).filter((domain) => served.includes(domain));
  const shown = found.flatMap(({ name, example }) => (example === null ? [] : [{ name, example }]));
  return shown.length > 0 ? shown : [{ name: "Novel", example: anyExample }];
}
