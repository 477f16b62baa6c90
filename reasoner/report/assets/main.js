// Unpacks the data and brings the page to life.

async function unpack(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function start() {
  const data = await unpack("data");
  watchCharts(data.charts);
  const root = document.getElementById("browser");
  if (!root) return;
  new Browser(data, root);
  root.hidden = false;
  document.getElementById("loading").remove();
  if (location.hash.includes("=")) document.getElementById("responses").scrollIntoView();
}

start().catch((error) => {
  const place = document.getElementById("loading");
  if (place) place.textContent = `The data could not be unpacked (${error}); a browser of 2023 or later can.`;
  throw error;
});
