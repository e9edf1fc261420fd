//! The templates of the paths that there are, by which requests are counted.
//!
//! What a client puts into a path must not make a new kind of request, so each counts for one of [`TEMPLATES`]: that of its route,
//! or, if it is refused before it has one, the first that its path fits. All paths that nobody knows are one.

use super::{Route, path_and_query};

/// The paths of all routes; that of `OPTIONS *`, by which a supervisor asks whether a server answers; and what stands for all others.
pub const TEMPLATES: &[&str] = &[
    "/",
    "/order",
    "/order/{order_id}",
    "/orders",
    "/orders/{order_id}",
    "/orders/{order_id}/retry",
    "/orders/{order_id}/cancel",
    "/metrics",
    "/healthz",
    "/openapi.json",
    "*",
    "other",
];

/// The place of what is none of the others.
pub const OTHER: usize = TEMPLATES.len() - 1;

/// The place of a route's template.
pub fn of_route(route: &Route) -> usize {
    let template = match route {
        Route::CreateOrder => "/order",
        Route::OrderStatus(_) => "/order/{order_id}",
        Route::Orders(_) => "/orders",
        Route::Order(_) => "/orders/{order_id}",
        Route::Retry(_) => "/orders/{order_id}/retry",
        Route::Cancel(_) => "/orders/{order_id}/cancel",
        Route::Metrics | Route::Prometheus => "/metrics",
        Route::Health => "/healthz",
        Route::Document => "/openapi.json",
        Route::Page(_) | Route::Usage(_) => "/",
    };
    TEMPLATES.iter().position(|known| *known == template).unwrap_or(OTHER)
}

/// The place of the template that the path of a request target fits.
pub fn of_target(target: &str) -> usize {
    let (path, _) = path_and_query(target);
    TEMPLATES[..OTHER].iter().position(|template| fits(path, template)).unwrap_or(OTHER)
}

fn fits(path: &str, template: &str) -> bool {
    let template = template.strip_prefix('/').unwrap_or(template);
    let fits = |(part, wanted): (&str, &str)| part == wanted || wanted.starts_with('{') && !part.is_empty();
    path.split('/').count() == template.split('/').count() && path.split('/').zip(template.split('/')).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::route;
    use crate::http::Method;

    #[test]
    fn a_route_and_a_refused_request_for_the_same_path_count_alike() {
        let id = |template: &str| template.replace("{order_id}", "a%2Fb");
        for template in TEMPLATES[..OTHER].iter().filter(|template| **template != "*") {
            let found = [Method::Get, Method::Post].map(|method| route(method, &id(template), |_| Some("application/json")));
            let routes: Vec<_> = found.iter().filter_map(|route| route.as_ref().ok()).collect();
            assert_eq!(routes.len(), 1, "{template} has one method");
            assert_eq!(TEMPLATES[of_route(routes[0])], *template);
            assert_eq!(TEMPLATES[of_target(&id(template))], *template);
        }
    }

    #[test]
    fn whatever_a_client_asks_for_there_is_one_kind_for_it() {
        for (target, template) in [
            ("/order/1?x=1", "/order/{order_id}"),
            ("http://shop/orders/%zz", "/orders/{order_id}"),
            ("*", "*"),
            ("/", "/"),
            ("//", "other"),
            ("/order/", "other"),
            ("/order/1/2", "other"),
            ("/orders//retry", "other"),
            ("/{order_id}", "other"),
            ("/wp-login.php", "other"),
        ] {
            assert_eq!(TEMPLATES[of_target(target)], template, "{target}");
        }
    }
}
