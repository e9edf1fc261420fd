//! The instances that share a server's orders, as `orderd status` shows them: read from the figures, and put into a table.
//!
//! A server that keeps its orders in a file tells of none, and then nothing is shown.

use serde::Serialize;

use super::Figures;

/// So much of a node's name tells it from others.
const SHOWN_OF_NODE: usize = 8;

/// All of them.
#[derive(Serialize)]
pub struct Instances {
    /// Those with a lease.
    living: Vec<Instance>,
    /// How many are without one and have orders in `Processing`.
    gone: u64,
    /// How many orders these are.
    orphaned_orders: u64,
}

#[derive(Serialize)]
struct Instance {
    id: String,
    node: String,
    lease_seconds: f64,
    processing: u64,
    /// Whether it is the one that was asked.
    is_this: bool,
}

impl Instances {
    /// What the figures say of them, if they do.
    pub fn of(figures: &Figures) -> Option<Instances> {
        let of_instances = |name| figures.samples(name).filter_map(|(labels, value)| Some((named(labels)?, value)));
        let work: Vec<_> = of_instances("orderd_instance_processing").collect();
        let own: Vec<_> = of_instances("orderd_instance_info").collect();
        let living: Vec<_> = of_instances("orderd_instance_lease_seconds")
            .map(|((id, node), lease_seconds)| Instance {
                is_this: own.iter().any(|((own, _), _)| *own == id),
                processing: work.iter().find(|((of, _), _)| *of == id).map_or(0, |(_, orders)| *orders as u64),
                id: id.into(),
                node: node.into(),
                lease_seconds,
            })
            .collect();
        let gone = figures.sum("orderd_instances_gone") as u64;
        let orphaned_orders = figures.sum("orderd_orphaned_orders") as u64;
        (!living.is_empty() || gone > 0).then_some(Instances { living, gone, orphaned_orders })
    }

    /// The rows of a table.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["INSTANCE", "NODE", "LEASE", "PROCESSING", ""].map(String::from).to_vec()];
        for instance in &self.living {
            rows.push(vec![
                instance.id.clone(),
                instance.node.chars().take(SHOWN_OF_NODE).collect(),
                format!("{:.0}s", instance.lease_seconds),
                instance.processing.to_string(),
                if instance.is_this { "this one".into() } else { String::new() },
            ]);
        }
        if self.gone > 0 {
            let orders = self.orphaned_orders.to_string();
            rows.push(vec![format!("{} gone", self.gone), "-".into(), "-".into(), orders, "to be taken over".into()]);
        }
        rows
    }
}

/// The values of `{id="7",node="ab"}`.
fn named(labels: &str) -> Option<(&str, &str)> {
    labels.strip_prefix("{id=\"")?.strip_suffix("\"}")?.split_once("\",node=\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_from_each_other_and_from_those_that_are_gone() {
        let mut text = String::from("orderd_orders{status=\"Pending\"} 1\n");
        assert!(Instances::of(&Figures::of(&text)).is_none());
        for (id, node, lease, orders) in [(7, "aaaaaaaaaaaa", "28.6", 4), (9, "bbbbbbbbbbbb", "3.2", 0)] {
            text += &format!("orderd_instance_lease_seconds{{id=\"{id}\",node=\"{node}\"}} {lease}\n");
            text += &format!("orderd_instance_processing{{id=\"{id}\",node=\"{node}\"}} {orders}\n");
        }
        text += "orderd_instance_info{id=\"9\",node=\"bbbbbbbbbbbb\"} 1\norderd_instances_gone 2\norderd_orphaned_orders 5\n";
        let rows: Vec<String> = Instances::of(&Figures::of(&text)).unwrap().rows().iter().map(|row| row.join("|")).collect();
        let expected = [
            "INSTANCE|NODE|LEASE|PROCESSING|",
            "7|aaaaaaaa|29s|4|",
            "9|bbbbbbbb|3s|0|this one",
            "2 gone|-|-|5|to be taken over",
        ];
        assert_eq!(rows, expected);
    }
}
