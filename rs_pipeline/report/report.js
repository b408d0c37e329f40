"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Where the page is served by `rs-seg view`: addresses of tiles that are finer than the picture in the page.
  const tiles = JSON.parse(document.documentElement.dataset.tiles || "[]");
  const map = L.map("map", { preferCanvas: true, zoomSnap: 0.25, maxZoom: 24 });
  map.attributionControl.setPrefix("Leaflet");
  const controls = document.getElementById("layers");
  const largest = document.getElementById("largest");

  function element(parent, tag, properties) {
    const made = Object.assign(document.createElement(tag), properties);
    parent.append(made);
    return made;
  }

  /** A checkbox and a slider for something that is on the map, or not. */
  function control(name, colour, isOn, opacity, show, setOpacity) {
    const row = element(controls, "div", { className: "layer" });
    const label = element(row, "label", {});
    const box = element(label, "input", { type: "checkbox", checked: isOn });
    if (colour) element(label, "span", { className: "swatch" }).style.background = colour;
    element(label, "span", { textContent: name });
    const slider = element(row, "input", { type: "range", min: 0, max: 100, value: 100 * opacity });
    slider.setAttribute("aria-label", `Opacity of ${name}`);
    box.addEventListener("change", () => show(box.checked));
    slider.addEventListener("input", () => setOpacity(slider.value / 100));
    show(isOn);
    return () => { if (!box.checked) { box.checked = true; show(true); } };
  }

  function toggle(layer) {
    return (isOn) => { if (isOn) layer.addTo(map); else layer.remove(); };
  }

  /** Rings of a polygon from whole units, each point counted from the one before. */
  function ring(layer, steps) {
    const points = [];
    let x = 0, y = 0;
    for (let i = 0; i < steps.length; i += 2) {
      x += steps[i];
      y += steps[i + 1];
      points.push([layer.origin[1] + y * layer.unit, layer.origin[0] + x * layer.unit]);
    }
    return points;
  }

  function text(column, index) {
    return column.texts ? column.texts[column.places[index]] : column[index];
  }

  function facts(layer, index) {
    const percent = layer.edge_not_observed[index];
    return [
      ["layer", layer.name],
      ["id", layer.id[index]],
      ["area", `${layer.area_m2[index].toLocaleString("en")} m²`],
      ["mean score", layer.score_mean[index]],
      ["edge not observed", percent === null ? null : `${Math.round(100 * percent)} %`],
      ["scene", text(layer.scene, index)],
      ["date", text(layer.datetime, index)],
    ].filter(([, value]) => value !== null);
  }

  function popup(layer, index) {
    const table = document.createElement("table");
    const body = element(table, "tbody", {});
    for (const [name, value] of facts(layer, index)) {
      const row = element(body, "tr", {});
      element(row, "th", { scope: "row", textContent: name });
      element(row, "td", { textContent: value });
    }
    return table;
  }

  function addLayer(layer) {
    const group = L.featureGroup();
    const style = { color: layer.colour, weight: 1, opacity: 1, fillOpacity: 0.5 };
    const polygons = layer.shapes.map((parts, index) => {
      const polygon = L.polygon(parts.map((rings) => rings.map((steps) => ring(layer, steps))), { ...style, smoothFactor: 1 });
      polygon.bindPopup(() => popup(layer, index), { autoPanPadding: [20, 20] });
      return polygon.addTo(group);
    });
    const setOpacity = (value) => group.setStyle({ fillOpacity: value, opacity: Math.min(1, 2 * value) });
    const reveal = control(layer.name, layer.colour, true, 0.5, toggle(group), setOpacity);
    if (polygons.length) element(largest, "h3", { textContent: layer.name });
    polygons.slice(0, 5).forEach((polygon, index) => {
      const area = layer.area_m2[index].toLocaleString("en");
      const button = element(largest, "button", { type: "button", textContent: `${area} m²` });
      button.setAttribute("aria-label", `Show ${layer.name} of ${area} m² on the map`);
      button.addEventListener("click", () => {
        reveal();
        map.fitBounds(polygon.getBounds(), { maxZoom: 19, animate: false });
        polygon.openPopup();
      });
    });
    return group;
  }

  function frame(groups) {
    if (data.picture) {
      const [west, south, east, north] = data.picture.bounds;
      return L.latLngBounds([south, west], [north, east]);
    }
    return groups.reduce((all, group) => all.extend(group.getBounds()), L.latLngBounds([]));
  }

  // The view comes first: layers that are added to a map without one are not placed.
  map.setView([0, 0], 2);
  if (data.picture) {
    // Below tiles, which are finer.
    map.createPane("picture").style.zIndex = 150;
    const picture = L.imageOverlay(data.picture.url, frame([]), { pane: "picture", alt: "The scenes as the model saw them" });
    control("scenes, overview", null, true, 1, toggle(picture), (value) => picture.setOpacity(value));
  }
  const isLeftOut = data.layers.some((layer) => layer.total > layer.shapes.length);
  for (const { name, url, isOn = isLeftOut, opacity } of tiles) {
    const bounds = data.picture ? frame([]) : undefined;
    const layer = L.tileLayer(url, { bounds, opacity, maxZoom: 24 });
    control(name, null, isOn, opacity, toggle(layer), (value) => layer.setOpacity(value));
  }
  const groups = data.layers.map(addLayer);
  const bounds = frame(groups);
  if (bounds.isValid()) map.fitBounds(bounds, { animate: false });
  L.control.scale({ imperial: false }).addTo(map);
  // A browser prints the map at another size than it shows it.
  window.addEventListener("beforeprint", () => map.invalidateSize({ animate: false }));
  document.documentElement.dataset.ready = "true";
})();
