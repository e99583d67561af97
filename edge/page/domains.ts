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
    name: "French",
    example: "Cette directive permet de définir le nom du serveur. Elle est utilisée par le module pour les requêtes",
  },
  "many total hour How each": {
    name: "Maths",
    example: "Janet has 3 boxes of pencils. Each box holds 12 pencils and costs $4. How much money does she",
  },
  "bel mod http ver say": {
    name: "Turkish",
    example: "Bu yönerge sunucunun adını belirtir. İstemciler için bir sayfa",
  },
  "que est direct par config": {
    name: "Spanish",
    example: "Esta directiva permite definir el nombre del servidor que el módulo utiliza para",
  },
  "the and his him shall": {
    name: "Bible and Moby Dick",
    example: "And the LORD said unto Moses, Go unto the children of Israel, and they shall",
  },
  "See term program hackers used": {
    name: "Hacker jargon",
    example: "hack: n. Originally, a quick job that produces what is needed. See also kluge. A term for software",
  },
  "the our and been have": {
    name: "Speeches",
    example: "Our nation has been strong, and the people have been given by Congress the right to",
  },
  "her she was had very": {
    name: "Jane Austen",
    example: "Elizabeth was surprised that he should say so, and she had no wish to",
  },
  "Python class module object function": {
    name: "Python",
    example: "The function returns a new object of this class. Changed in version 3.8: the module",
  },
  "https description version Return package": {
    name: "JavaScript packages",
    example: "# read-stream\n\nAn API for streams.\n\n```js\nconst read = require('read-stream')\n",
  },
  "fast rep request rout server": {
    name: "Web servers in JavaScript",
    example: "fastify.register adds a route to the server. Each request has a reply",
  },
  "Per file hackers print use": {
    name: "Perl",
    example: '=head1 SYNOPSIS\n\n    use strict;\n    my $name = shift;\n    print "Hello, $name',
  },
  "table database col index the": {
    name: "Databases",
    example: "The SELECT statement returns rows from a table. If the WHERE clause is used with an index",
  },
  "configuration server show exp parameter": {
    name: "Server settings",
    example: "ALTER TEXT SEARCH CONFIGURATION — change the definition of a text search configuration\n\n",
  },
  "WITH tim Per points ISO": {
    name: "Dates and times",
    example: "The time is given as ISO 8601 with time zone: TIMESTAMP WITH TIME ZONE",
  },
  "rele cap changes session comp": {
    name: "Index of links",
    example: " * SQLITE_STATIC → c3ref/bind_blob.html c3ref/constlist.html\n * SQLITE_STMT →",
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
